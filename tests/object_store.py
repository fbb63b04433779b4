"""A server of S3 for tests, in this process."""

import contextlib

import pytest

from cuekit.run import _storage


def is_installed():
    """Return whether there can be a server."""
    try:
        import flask_cors  # noqa: F401
        import moto.server  # noqa: F401
        import s3fs  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def s3_server():
    """Have a server; the environment of this process, and of those it starts, says where."""
    import s3fs
    from moto.server import ThreadedMotoServer

    # What was connected to an earlier server is kept by fsspec, and by cuekit.
    s3fs.S3FileSystem.clear_instance_cache()
    _storage._made_store.cache_clear()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    server.stop()


def new_bucket(name):
    """Return a file system, and the URL of a new bucket."""
    import s3fs

    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir(name)
    return store, f"s3://{name}"


def label_files(store, url):
    """Return the label files below a URL."""
    store.invalidate_cache()
    root = url.removeprefix("s3://") + "/"
    return {
        key.removeprefix(root): store.cat_file(key)
        for key in store.find(url)
        if key.endswith(".png")
    }
