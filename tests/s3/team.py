"""A bucket under the name that the pages of the documentation use, and where S3 clients find it: in the environment."""

from __future__ import annotations

from contextlib import suppress

import s3fs
from fsspec.asyn import sync

from s3.server import KEY, SECRET, S3Server

BUCKET = "my-team"


def make_team_bucket(server: S3Server) -> dict[str, str]:
    """Make the bucket, or empty it, and return what a process must have in its environment to find it."""
    fs = s3fs.S3FileSystem(**server.options(), skip_instance_cache=True, use_listings_cache=False)
    with suppress(FileExistsError):
        fs.call_s3("create_bucket", Bucket=BUCKET)
    for path in fs.find(BUCKET):
        fs.rm_file(path)
    sync(fs.loop, fs._s3.close)
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
