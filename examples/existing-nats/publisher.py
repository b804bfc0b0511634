"""A service that publishes its orders to NATS. It knows nothing of Fanfare."""

import asyncio
import itertools
import json
import os
import sys

import nats


async def main() -> None:
    bus = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else None
    pause = float(os.environ.get("PAUSE", "1"))
    for number in itertools.islice(itertools.count(1), count):
        region = ("eu", "us")[number % 2]
        order = {"order": number, "state": "paid", "note": "first line\nsecond line"}
        headers = {"Event-Type": "paid"}
        await bus.publish(f"orders.{region}", json.dumps(order).encode(), headers=headers)
        await bus.flush()
        print(f"orders.{region} {number}", flush=True)
        await asyncio.sleep(pause)
    await bus.close()


asyncio.run(main())
