"""One client with its own pace: `python _paced.py HOST PORT RATE SECONDS [real-time]`.

Prints the time of each answer in ms, as JSON. A process of its own, so that nothing that the bench does itself is measured.
"""

import http.client
import json
import os
import sys
import time


def main(host: str, port: int, rate: float, seconds: float) -> list[float]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    took: list[float] = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))
        sent = time.perf_counter()
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        took.append((time.perf_counter() - sent) * 1000)
    return took


if __name__ == "__main__":
    host, port, rate, seconds, *how = sys.argv[1:]
    if how:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print(json.dumps(main(host, int(port), float(rate), float(seconds))))
