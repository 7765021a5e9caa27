"""Profiles of the AWS tools: credentials, region and endpoint from `~/.aws/credentials` and `~/.aws/config`.

The library behind `data.remote.stores` reads the environment, web identities and the roles of containers and instances
by itself; files it does not. Static keys and `credential_process` are read here. Profiles that need a sign-in service
(`sso_…`, `role_arn`) are left to boto3 where it is installed.
"""

import configparser
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from launch.command.cli import UserError

_FRESH = timedelta(minutes=5)
_KEYS = ("aws_access_key_id", "aws_secret_access_key")
_OTHER_SOURCES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)

Provider = Callable[[], dict[str, Any]]
"""Returns access_key_id, secret_access_key, token and expires_at (timezone-aware)."""


def aws_settings() -> tuple[dict[str, str], Provider | None]:
    """What the environment doesn't say about S3: region and endpoint, and where the keys come from (None: elsewhere).

    The environment comes first, then AWS_PROFILE or the default profile. UserError for a profile that isn't there or
    can't be used.
    """
    named = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    values = _profile(named or "default")
    if named and not values:
        raise UserError(f"AWS_PROFILE={named} is in neither of {', '.join(map(str, _files()))}: correct its name")
    found = {}
    if not os.environ.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"} and "region" in values:
        found["region"] = values["region"]
    if not os.environ.keys() & {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"}:
        endpoint = values.get("endpoint_url_s3") or values.get("endpoint_url")
        found |= {"endpoint": endpoint} if endpoint else {}
    elsewhere = "AWS_ACCESS_KEY_ID" in os.environ or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    if elsewhere or (not named and os.environ.keys() & set(_OTHER_SOURCES)):
        return found, None
    return found, _provider(named or "default", values)


def _provider(name: str, values: dict[str, str]) -> Provider | None:
    if all(key in values for key in _KEYS) or "credential_process" in values:
        return lambda: _credentials(name)
    if not any(key.startswith("sso_") or key == "role_arn" for key in values):
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise UserError(
            f"the AWS profile {name} signs in through sso_… or role_arn, which needs boto3: install it (pip install "
            "boto3), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    return Boto3CredentialProvider(boto3.Session(profile_name=name))  # type: ignore[return-value]


def _credentials(name: str) -> dict[str, Any]:
    """The profile's keys as they are now: read again every few minutes, so that renewed ones are used."""
    values, until = _profile(name), datetime.now(UTC) + _FRESH
    if all(key in values for key in _KEYS):
        token = values.get("aws_session_token")
        return {
            "access_key_id": values["aws_access_key_id"],
            "secret_access_key": values["aws_secret_access_key"],
            "token": token,
            "expires_at": until,
        }
    command = shlex.split(values.get("credential_process", ""))
    try:
        printed = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
        ends = printed.get("Expiration")
        return {
            "access_key_id": printed["AccessKeyId"],
            "secret_access_key": printed["SecretAccessKey"],
            "token": printed.get("SessionToken"),
            "expires_at": datetime.fromisoformat(ends) if ends else until,
        }
    except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
        # What the command printed may hold secrets.
        raise PermissionError(f"credential_process of the AWS profile {name} failed ({type(error).__name__})") from None


def _files() -> tuple[Path, Path]:
    """The files of credentials and of settings."""
    return tuple(
        Path(os.environ.get(variable) or f"~/.aws/{name}").expanduser()
        for variable, name in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config"))
    )  # type: ignore[return-value]


def _profile(name: str) -> dict[str, str]:
    """All settings of a profile, those of the credentials file last; empty where there is none."""
    credentials, config = (_read(path) for path in _files())
    section = name if name == "default" and config.has_section(name) else f"profile {name}"
    values = dict(config[section]) if config.has_section(section) else {}
    services = f"services {values.get('services', '')}"
    if config.has_option(services, "s3"):  # indented lines below `s3 =`
        lines = (line.partition("=") for line in config.get(services, "s3").splitlines())
        values |= {f"{key.strip()}_s3": value.strip() for key, _, value in lines if key.strip() == "endpoint_url"}
    return values | (dict(credentials[name]) if credentials.has_section(name) else {})


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        # The parser's message would quote the line, which may hold a key.
        raise UserError(
            f"the AWS settings in {path} can't be read ({type(error).__name__}): correct the file"
        ) from None
    return parser
