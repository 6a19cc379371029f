"""Look at the jobs that the broker put aside, or have them tried again.

Usage: python -m synergos.queue.dead -mq rabbitmq HOST PORT {list,replay}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.exceptions import AMQPError

from synergos.errors import SynergosError
from synergos.queue.broker import HEARTBEAT, Address
from synergos.queue.messages import DEAD_QUEUE, Completed, Job, Malformed, Message, decode, encode, route


def main(argv: list[str] | None = None) -> None:
    """Do what the command says; ends the process with 0, 1 (failure) or 2 (usage)."""
    parser = argparse.ArgumentParser(prog="python -m synergos.queue.dead", description="Dead letters of a cluster.")
    parser.add_argument("--queue", "-mq", nargs=3, required=True, metavar=("rabbitmq", "HOST", "PORT"))
    parser.add_argument("command", choices=["list", "replay"], help="show them, or put them back into their queues")
    options = parser.parse_args(argv)
    _, host, port = options.queue
    try:
        address = Address.read(host, int(port))
        for line in show(address) if options.command == "list" else replay(address):
            print(line)
    except (AMQPError, OSError, ValueError, SynergosError) as error:
        sys.exit(f"dead letters: {error or type(error).__name__}")


def show(address: Address) -> Iterator[str]:
    """Tell each dead letter in a line; all stay."""
    for _channel, _tag, _message, line in _letters(address):
        yield line


def replay(address: Address) -> Iterator[str]:
    """Put jobs and results back to where they came from, and tell each letter in a line; all others stay."""
    for channel, tag, message, line in _letters(address):
        if message is None:
            yield f"left: {line}"
            continue
        # First there, then gone from here: it may be twice there, and is never lost.
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        exchange, key = route(message)
        channel.basic_publish(exchange, key, encode(message), properties, mandatory=True)
        channel.basic_ack(tag)
        yield f"put back: {line}"


def _letters(address: Address) -> Iterator[tuple[Any, int, Message | None, str]]:
    """Go through those that are there now; what is not acknowledged goes back in the end."""
    with _opened(address) as channel:
        for _ in range(channel.queue_declare(DEAD_QUEUE, passive=True).method.message_count):
            method, properties, body = channel.basic_get(DEAD_QUEUE)
            if method is None:
                return
            headers = properties.headers or {}
            why = f"{headers.get('x-first-death-queue')}: {headers.get('x-first-death-reason')}"
            try:
                message = decode(body)
            except Malformed as error:
                yield channel, method.delivery_tag, None, f"{why}: malformed, {error}"
            else:
                ours = message if isinstance(message, (Job, Completed)) else None
                yield channel, method.delivery_tag, ours, f"{why}: {_describe(message)}"


def _describe(message: Any) -> str:
    about = "/".join(getattr(message, "keys", None) or getattr(message, "filters", None) or [])
    return " ".join(part for part in (message.kind, message.job_id, about) if part)


@contextmanager
def _opened(address: Address) -> Iterator[Any]:
    credentials = pika.PlainCredentials(address.user, address.password)
    parameters = pika.ConnectionParameters(address.host, address.port, credentials=credentials, heartbeat=HEARTBEAT)
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


if __name__ == "__main__":
    main()
