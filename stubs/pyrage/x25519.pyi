from typing import Self

class Recipient:
    @classmethod
    def from_str(cls, text: str, /) -> Self: ...

class Identity:
    @classmethod
    def generate(cls) -> Self: ...
    def to_public(self) -> Recipient: ...
