"""A service that adds its orders to Redis streams. It knows nothing of Fanfare."""

import itertools
import json
import os
import sys
import time

import redis

bus = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
count = int(sys.argv[1]) if len(sys.argv) > 1 else None
pause = float(os.environ.get("PAUSE", "1"))

for number in itertools.islice(itertools.count(1), count):
    region = ("eu", "us")[number % 2]
    order = {"order": number, "note": "first line\nsecond line"}
    entry = {"type": "paid", "payload": json.dumps(order), "source": "billing"}
    bus.xadd(f"orders:{region}", entry, maxlen=10_000, approximate=True)
    print(f"orders:{region} {number}", flush=True)
    time.sleep(pause)
