"""Reads objects of an S3-compatible store with boto3. From any thread.

Invariant: errors name the bucket, the endpoint and the store's own code, never a credential.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator
from typing import Any, Final

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from protocol.errors import ConfigError, quoted
from workers.repository.remote.address import Address
from workers.repository.remote.keys import MAX_OBJECTS, RemoteObject

CONNECT_WITHIN: Final = 5.0
READ_WITHIN: Final = 30.0
"""Seconds for each read of a body."""
_CHUNK: Final = 1 << 20
_LISTS: Final = 3
_MD5: Final = re.compile(r"[0-9a-f]{32}\Z")

log = structlog.get_logger(__name__)


class Changed(Exception):
    """The object is not the listed one any more."""


class Interrupted(Exception):
    """The store did not answer, or ended in the middle of a body; another attempt may succeed."""


@dataclasses.dataclass(slots=True)
class Body:
    """An object's bytes.

    Attributes:
        start: the first byte's position.
        md5, sha256: of the whole object, in hex, if the store says them; else "".
    """

    start: int
    chunks: Iterator[bytes]
    md5: str = ""
    sha256: str = ""


class S3Store:
    """One repository's objects.

    Args:
        address: of the repository.

    Raises:
        ConfigError: boto3 is missing, or its settings are wrong.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = _client(address)

    def objects(self) -> list[RemoteObject]:
        """All objects below the prefix.

        Raises:
            ConfigError: the store is away or refuses; names bucket, endpoint and cause.
        """
        retrying = Retrying(
            stop=stop_after_attempt(_LISTS), retry=retry_if_exception_type(Interrupted),
            wait=wait_random_exponential(0.2, 2.0), reraise=True,
        )  # fmt: skip
        try:
            return retrying(self._list)
        except Interrupted as error:
            raise ConfigError(f"{self.address.place} cannot be read: {error}") from None

    def _list(self) -> list[RemoteObject]:
        prefix = f"{self.address.prefix}/" if self.address.prefix else ""
        found: list[RemoteObject] = []
        token: dict[str, str] = {}
        with self._errors():
            while len(found) <= MAX_OBJECTS:
                page = self._client.list_objects_v2(Bucket=self.address.bucket, Prefix=prefix, **token)
                found += [
                    RemoteObject(str(each["Key"]), int(each["Size"]), str(each.get("ETag", "")).strip('"'))
                    for each in page.get("Contents", ())
                ]
                if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                    break
                token = {"ContinuationToken": page["NextContinuationToken"]}
        return found

    @contextlib.contextmanager
    def open(self, each: RemoteObject, start: int) -> Iterator[Body]:
        """The object's bytes from `start` on.

        Raises:
            Changed: it is not the listed one any more.
            Interrupted: the store did not answer; also while the bytes are read.
            ConfigError: the store refuses.
        """
        more: dict[str, str] = {"Range": f"bytes={start}-"} if start else {"ChecksumMode": "ENABLED"}
        if each.etag:
            more["IfMatch"] = f'"{each.etag}"'
        with self._errors():
            answer = self._client.get_object(Bucket=self.address.bucket, Key=each.key, **more)
        stream = answer["Body"]
        try:
            yield Body(_begins(answer, start), self._chunks(stream), _md5(answer, each), _sha256(answer))
        finally:
            stream.close()

    def _chunks(self, stream: Any) -> Iterator[bytes]:
        chunks = stream.iter_chunks(_CHUNK)
        while True:
            with self._errors():
                chunk = next(chunks, b"")
            if not chunk:
                return
            yield chunk

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn boto3's errors into ours."""
        import botocore.exceptions as boto
        import urllib3.exceptions

        try:
            yield
        except boto.ClientError as error:
            raise self._refused(error) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound) as error:
            raise ConfigError(
                f"{self.address.place} cannot be read: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from None
        except (boto.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise Interrupted(quoted(f"{type(error).__name__}: {error}")) from None

    def _refused(self, error: Any) -> Exception:
        """A store's error answer: passing, or for ever."""
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        named = error.response.get("Error", {})
        text = f"{named.get('Code', status)}: {named.get('Message', '')}"
        if status in (404, 412, 416) and error.operation_name == "GetObject":
            return Changed(text)
        if status >= 500 or status in (408, 429) or named.get("Code") in ("SlowDown", "RequestTimeout"):
            return Interrupted(quoted(text))
        return ConfigError(f"{self.address.place} cannot be read: {quoted(text)}")


def _client(address: Address) -> Any:
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError:
        raise ConfigError(
            f"model repository {address} needs the package boto3, which is not installed: pip install 'penstock[s3]'"
        ) from None
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where it found credentials
    config = botocore.config.Config(
        connect_timeout=CONNECT_WITHIN,
        read_timeout=READ_WITHIN,
        retries={"total_max_attempts": 1},  # repeated here, and resumed
        s3={"addressing_style": "path" if address.endpoint else "auto"},
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
    )
    try:
        session = boto3.session.Session()
        region = session.region_name or "us-east-1"
        return session.client("s3", endpoint_url=address.endpoint or None, region_name=region, config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise ConfigError(f"{address.place} cannot be read: {quoted(str(error))}") from None


def _begins(answer: dict[str, Any], start: int) -> int:
    """The position of the first byte: a store that ignores the range sends everything."""
    given = str(answer.get("ContentRange", ""))
    found = re.match(r"bytes ([0-9]+)-", given)
    return int(found[1]) if found and start else 0


def _md5(answer: dict[str, Any], each: RemoteObject) -> str:
    """The object's MD5, if its ETag is one: it is not for multipart uploads and for some encryptions."""
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    return each.etag if _MD5.match(each.etag) and not encrypted else ""


def _sha256(answer: dict[str, Any]) -> str:
    try:
        return base64.b64decode(str(answer.get("ChecksumSHA256", "")), validate=True).hex()
    except (binascii.Error, ValueError):  # that of a multipart upload: `…-3`
        return ""
