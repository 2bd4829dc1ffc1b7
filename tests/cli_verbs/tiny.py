"""A small stack of one pipeline that trains nothing: tests register what it is to serve; gates are added."""

STACK = """\
mainspring: 1
stack: tiny
compute:
  here: {machine: this, price: $0.10/h}
orchestration:
  where: here
  gateway: {port: 0}
serving:
  delay:
    model: delay@champion
    truth: {field: late}
pipelines:
  delays:
    produces: delay
    data: {trips: trips.csv}
    steps: {ingest: "trips:ingest", train: "trips:train"}
    gates:
"""

CODE = """
import pandas as pd


def ingest(trips: pd.DataFrame) -> pd.DataFrame:
    return trips.assign(time=pd.to_datetime(trips["time"], utc=True))


def train(ingest):
    raise RuntimeError("nothing is trained here")
"""
