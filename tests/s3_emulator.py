"""moto's S3, whose conditional writes are atomic as S3's are: `python tests/s3_emulator.py PORT`.

moto looks whether an object exists and writes it in two steps, in one thread a request, so that two
who create the same object at the same moment may both be told that they did. S3 tells one of them.
"""

import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

WRITES = threading.Lock()


def one_write_at_a_time(application):
    """Returns a WSGI application that answers requests which write one after the other."""

    def answer(environ, start_response):
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        with WRITES:
            return list(application(environ, start_response))

    return answer


if __name__ == "__main__":
    application = one_write_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
