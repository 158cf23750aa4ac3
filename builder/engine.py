"""A container engine with Docker's Engine API (Docker, Podman), and containers that end with us.

Every container's first process reads from a connection that we hold. When we end, however that happens, it gets the end
of its input and ends too, and the engine removes the container with all that was put into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import CancellableStream
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from builder.errors import BuildError
from builder.where import IMAGE_VARIABLE

_PATIENCE = 300
"""Seconds for one answer; committing an image takes longest."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}

_T = TypeVar("_T")

Output = Callable[[bytes, bytes], None]
"""Gets what a command has just printed: on standard output, and on the error output."""


@dataclass(frozen=True)
class Container:
    """A running container.

    Args:
        api: the engine.
        identifier: the engine's name for it.
    """

    api: docker.APIClient
    identifier: str

    def put(self, folder: str, tar: Iterable[bytes]) -> None:
        """Unpack a tar in a folder that is there.

        Raises:
            BuildError: the engine refuses it.
        """
        with _engine_errors("files cannot be put into the container"):
            self.api.put_archive(self.identifier, folder, tar)

    def run(
        self,
        argv: Sequence[str],
        output: Output,
        *,
        folder: str = "/",
        environment: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> int:
        """Run a command as root to its end, with nothing to read.

        Args:
            terminal: give it one, of our terminal's size; all it prints is then error output.

        Returns:
            Its exit status.

        Raises:
            BuildError: the engine has lost it, or it was killed.
        """
        variables = _ENVIRONMENT | dict(environment or {})
        if terminal:
            variables["TERM"] = os.environ.get("TERM", "dumb")
        with _engine_errors("the container has gone"):
            made = self.api.exec_create(
                self.identifier, list(argv), tty=terminal, environment=variables, workdir=folder, user="root"
            )
            if terminal:
                with _closing(self.api.exec_start(made["Id"], tty=True, stream=True)) as shown:
                    self._resize(made["Id"])
                    for chunk in shown:
                        output(b"", chunk)
            else:
                with _closing(self.api.exec_start(made["Id"], stream=True, demux=True)) as told:
                    for out, err in told:
                        output(out or b"", err or b"")
            status = self.api.exec_inspect(made["Id"])["ExitCode"]
        if status is None or status > 128:
            ending = "was cut off" if status is None else f"was ended by signal {status - 128}"
            message = f"the command in the container {ending}"
            raise BuildError(message, "look at the engine's log: has it run out of memory or disk?")
        return int(status)

    def fetch(self, path: str) -> Iterator[bytes]:
        """Give the chunks of a tar of a file or folder.

        Raises:
            BuildError: it is not there, or the engine fails.
        """
        with _engine_errors(f"{path} cannot be fetched from the container"):
            chunks, _ = self.api.get_archive(self.identifier, path)
            yield from chunks

    def commit(self, name: str, labels: Mapping[str, str]) -> None:
        """Make an image of what is in it now, without volumes.

        Args:
            name: `repository:tag`.
        """
        repository, _, tag = name.rpartition(":")
        with _engine_errors("the prepared image cannot be stored"):
            changes = "\n".join(f"LABEL {key}={value}" for key, value in labels.items())
            self.api.commit(self.identifier, repository, tag, changes=changes)

    def _resize(self, command: str) -> None:
        columns, rows = shutil.get_terminal_size()
        with suppress(APIError):  # it may have ended already
            self.api.exec_resize(command, height=rows, width=columns)


@dataclass(frozen=True)
class Engine:
    """A container engine that answers.

    Args:
        api: its interface.
        name: what it is, with its version.
        security: options without which its containers may not mount, whatever their capabilities.
    """

    api: docker.APIClient
    name: str
    security: tuple[str, ...]

    def find_image(self, name: str) -> str | None:
        """Give the id of an image that the engine has, else None."""
        with _engine_errors("the engine's images cannot be read"):
            try:
                return self._identifier(name)
            except ImageNotFound:
                return None

    def pull_image(self, name: str) -> str:
        """Let the engine fetch an image; gives its id.

        Raises:
            BuildError: there is none of this name.
        """
        hint = f"is the network up? Or name another image of Debian 13, one that the engine has: {IMAGE_VARIABLE}"
        repository, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:  # a port of a registry is no tag
            repository, tag = name, "latest"
        with _engine_errors(f"the engine does not have the image {name} and cannot get it", hint):
            self.api.pull(repository, tag)
            return self._identifier(name)

    def _identifier(self, name: str) -> str:
        return str(self.api.inspect_image(name)["Id"])  # type: ignore[no-untyped-call]

    @contextmanager
    def container(self, image: str, volumes: Mapping[str, str] | None = None) -> Iterator[Container]:
        """Start a container that may mount (CAP_SYS_ADMIN) and nothing more; it goes at the end, with its files.

        Args:
            volumes: named volumes and where each is seen.

        Raises:
            BuildError: the engine refuses it.
        """
        hint = (
            "its containers need the capability SYS_ADMIN (docker run --cap-add SYS_ADMIN); does the engine allow it?"
        )
        with _engine_errors("the engine cannot start a container", hint):
            made = self.api.create_container(
                image,
                entrypoint=["cat"],
                command=[],
                user="root",
                stdin_open=True,  # and closed for good when we leave it (StdinOnce)
                host_config=self.api.create_host_config(
                    auto_remove=True,
                    cap_add=["SYS_ADMIN"],
                    security_opt=list(self.security),
                    binds={name: {"bind": path, "mode": "rw"} for name, path in (volumes or {}).items()},
                ),
            )
        identifier = str(made["Id"])
        try:
            with _engine_errors("the engine cannot start a container", hint):
                held = self.api.attach_socket(identifier, {"stdin": 1, "stream": 1})
                self.api.start(identifier)
            try:
                yield Container(self.api, identifier)
            finally:
                held.close()
        finally:
            with suppress(APIError, RequestException):  # it may be gone by itself already
                self.api.remove_container(identifier, v=True, force=True)


@contextmanager
def connected() -> Iterator[Engine]:
    """Give the engine that `$DOCKER_HOST` names, or the one of this computer.

    Raises:
        BuildError: none answers.
    """
    where = os.environ.get("DOCKER_HOST", "") or "the usual place, /var/run/docker.sock"
    hint = (
        "start Docker (sudo systemctl start docker), or let DOCKER_HOST name the socket of another engine; "
        "an ordinary user must be allowed to use it: sudo usermod -aG docker $USER, and log in anew"
    )
    with _engine_errors(f"no container engine answers at {where}", hint):
        api = docker.APIClient(version="auto", timeout=_PATIENCE, **kwargs_from_env())
        try:
            version, information = api.version(), api.info()
        except BaseException:
            api.close()
            raise
    try:
        yield Engine(api, _name(version), security_options(information.get("SecurityOptions") or ()))
    finally:
        api.close()


def security_options(shown: Iterable[str]) -> tuple[str, ...]:
    """Choose the options that let containers mount, by what the engine confines them with.

    AppArmor's profile docker-default denies mount(2) also with CAP_SYS_ADMIN, and so does SELinux's type container_t.

    Args:
        shown: SecurityOptions of `docker info`, such as `name=apparmor`.
    """
    names = {part.removeprefix("name=") for option in shown for part in option.split(",") if part.startswith("name=")}
    options = {"apparmor": "apparmor=unconfined", "selinux": "label=disable"}
    return tuple(option for name, option in options.items() if name in names)


@contextmanager
def _closing(stream: CancellableStream[_T]) -> Iterator[CancellableStream[_T]]:
    """Close the answer behind a stream; the stream's own close() leaves the connection open."""
    try:
        yield stream
    finally:
        vars(stream)["_response"].close()  # the library leaves this to the caller, and offers no other way


def _name(version: Mapping[str, object]) -> str:
    components = version.get("Components")
    first = components[0].get("Name", "") if isinstance(components, list) and components else ""
    return f"{'Docker Engine' if first in {'', 'Engine'} else first} {version.get('Version', '')}".strip()


@contextmanager
def _engine_errors(message: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except (DockerException, RequestException) as error:
        raise BuildError(f"{message}: {_reason(error)}", hint or "look at the engine's log") from error


def _reason(error: Exception) -> str:
    """What the engine has said, or the operating system's reason why it could not be asked."""
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation)
    inner: BaseException = error
    while following := inner.__cause__ or inner.__context__:
        inner = following
    return inner.strerror if isinstance(inner, OSError) and inner.strerror else str(error)
