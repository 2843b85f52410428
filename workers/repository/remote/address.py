"""URLs of repositories in object stores, as Triton writes them. Pure.

s3://bucket/prefix                        Amazon S3, region and credentials from the usual variables and files
s3://https://host:port/bucket/prefix      any S3-compatible store; also http
s3://host:port/bucket/prefix              the same over http
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Final

from protocol.errors import ConfigError, quoted

SCHEME: Final = "s3://"
_ENDPOINT: Final = re.compile(r"(https?://)?((?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)\Z")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}\Z")
_OTHERS: Final = ("gs://", "as://", "http://", "https://")
_ENTRY: Final = re.compile(r"s3://(?:https?://)?(?:\[[^\]]*\]|[^:/]*)(?::[0-9]+(?=/))?[^:]*|[^:]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a repository is.

    Attributes:
        endpoint: URL of the store; "" for Amazon's.
        prefix: of its keys, without slashes at its ends; "" for the whole bucket.
    """

    endpoint: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return SCHEME + "/".join(part for part in (self.endpoint, self.bucket, self.prefix) if part)

    @property
    def place(self) -> str:
        """For errors: bucket and endpoint."""
        return f"bucket '{self.bucket}' at {self.endpoint or 'Amazon S3'}"


def is_remote(text: str) -> bool:
    """Whether a repository is named by a URL."""
    return text.startswith((SCHEME, *_OTHERS))


def parse(text: str) -> Address:
    """The address that a URL names.

    Raises:
        ConfigError: it is not such a URL. The text does not repeat credentials.
    """
    if not text.startswith(SCHEME):
        kind = text.partition("://")[0]
        raise ConfigError(f"model repositories at {kind}:// are not supported; use a folder or {SCHEME}BUCKET/PREFIX")
    if any(char.isspace() for char in text):
        raise ConfigError(
            f"{quoted(text)} has a space in it, which separates repositories in PENSTOCK_REMOTE_REPOSITORY"
        )
    rest = text.removeprefix(SCHEME)
    scheme, slashes, after = rest.partition("://")
    first, _, path = (after if slashes else rest).partition("/")
    if "@" in first:
        raise ConfigError(
            "the URL of a model repository must not hold credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    endpoint, bucket_path = "", rest
    if slashes or ":" in first:
        endpoint, bucket_path = (f"{scheme}://{first}" if slashes else f"http://{first}"), path
        if not _ENDPOINT.match(endpoint):
            raise ConfigError(f"{quoted(text)} is not {SCHEME}https://HOST:PORT/BUCKET/PREFIX")
    bucket, _, prefix = bucket_path.partition("/")
    if not _BUCKET.match(bucket):
        raise ConfigError(
            f"{quoted(text)} names no bucket: it must be {SCHEME}BUCKET/PREFIX or {SCHEME}https://HOST:PORT/BUCKET/PREFIX"
        )
    prefix = prefix.strip("/")
    if not prefix.isprintable() or any(
        part in ("", ".", "..") or part.isspace() for part in prefix.split("/") if prefix
    ):
        raise ConfigError(f"{quoted(text)} has a prefix that no repository has: its parts must be plain names")
    return Address(endpoint, bucket, prefix)


def split(text: str) -> list[str]:
    """The entries of an environment variable, which the path separator divides; those of URLs do not."""
    if os.pathsep != ":":
        return [entry for entry in text.split(os.pathsep) if entry]
    return _ENTRY.findall(text)
