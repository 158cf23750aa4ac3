"""Recovering a bucket as the drain's user: what `darkpipe relay recover-bucket` starts, and hands all secrets to.

Standard input has them as JSON, standard output what came of it; what is said on the way goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pyrage import x25519

from home.bucket import Bucket
from home.bucket_queue import recover
from home.bucket_seen import forget_seen, read_seen
from home.control_errors import ControlFailure
from home.drain_journal import Journal, JournalError, only_drain
from home.drain_run import Drain
from home.hand_over import LostError, NobodyTakesError, hand_over
from home.quarantine import QuarantineError
from home.relay_queue import RelayQueue
from model.s3 import S3Settings
from model.s3_objects import Objects, StoreError, open_store


def run(
    folder: Path,
    bucket: Bucket,
    besides: Sequence[str],
    make_drain: Callable[[Journal, RelayQueue], Drain],
) -> dict[str, Any]:
    """Recover all folders of a bucket.

    Args:
        folder: the drain's.
        besides: folders in which a relay is still at work.

    Returns:
        `folders`, a list of `Recovered`; `problems`, sentences about the bucket as a whole; and `stopped`, why not
        everything was tried, or empty.
    """
    told: dict[str, Any] = {"folders": [], "problems": [], "stopped": ""}
    try:
        with only_drain(folder), closing(Journal(folder)) as journal:
            found, told["problems"] = bucket.leftovers(besides)
            for name in bucket.nowhere(besides):
                forget_seen(folder, name)  # it was told, and nobody can do anything about it
            # Forgotten before: after a cut in between, a head that is gone would be told as a loss for ever.
            forget = partial(forget_seen, folder)
            for leftover in found:
                done = recover(bucket, leftover, journal, lambda queue: make_drain(journal, queue), forget)
                told["folders"].append(asdict(done))
    except LostError:
        told["stopped"] = "the mail server was lost in the middle of a message: start darkpipe-drain, and try again"
    except (ControlFailure, StoreError, NobodyTakesError, JournalError, QuarantineError, OSError) as error:
        told["stopped"] = str(error)
    return told


def main() -> None:
    """Run with what standard input says."""
    given = json.load(sys.stdin)
    folder = Path(given["folder"])
    settings = S3Settings.of(given["s3"])
    identities = [x25519.Identity.from_str(text) for text in given["identities"]]
    bucket = Bucket(Objects(open_store(settings), settings.prefix), settings.seal, read_seen(folder))

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def make_drain(journal: Journal, queue: RelayQueue) -> Drain:
        return Drain(folder, journal, queue, identities, hand_over, say)

    json.dump(run(folder, bucket, given["besides"], make_drain), sys.stdout)


if __name__ == "__main__":
    main()
