#!/usr/bin/env python3
"""Makes the SQLite file that Datasette serves, or adds rows to it from outside.

    make_data.py create FILE [ROWS]     a new file; the same ROWS give the same bytes of data every time
    make_data.py add FILE [ROWS]        appends rows to an existing file, as a nightly load would
    make_data.py close FILE ID          marks one request as closed

The data is invented: requests that citizens send to a city (a broken lamp, a missed bin). One large table,
two small ones it points to, and a single index, so that faceting and sorting have to do real work.
"""

import random
import sqlite3
import sys
from datetime import datetime, timedelta

ROWS = 250_000
SEED = 20240229
START = datetime(2021, 1, 1)

AGENCIES = ["Streets", "Parks", "Water", "Waste", "Lighting", "Transit", "Housing", "Trees", "Noise", "Animals"]
DISTRICTS = ["Harbour", "Old Town", "Riverside", "Hillcrest", "Mill End", "Northgate", "Orchard", "Quarry",
             "Southbank", "Station", "University", "Westfield"]
CHANNELS = ["app", "web", "phone", "counter", "letter"]
CATEGORIES = {
    1: ["pothole", "road marking", "blocked gutter", "broken kerb"],
    2: ["overgrown path", "broken bench", "playground damage"],
    3: ["leak", "low pressure", "discoloured water"],
    4: ["missed collection", "fly tipping", "broken bin", "bulky item"],
    5: ["lamp out", "lamp flickering", "lamp on by day"],
    6: ["shelter damage", "late service", "timetable missing"],
    7: ["damp", "heating", "lift out of order"],
    8: ["fallen branch", "dead tree", "roots in pavement"],
    9: ["construction at night", "loud music", "alarm"],
    10: ["stray dog", "wasp nest", "dead animal"],
}
STREETS = ["Abbey", "Bridge", "Castle", "Dock", "Elm", "Field", "Grove", "High", "Iron", "Juniper", "King", "Lime",
           "Market", "New", "Oak", "Priory", "Queen", "Ropewalk", "Spring", "Tanner", "Union", "Vine", "Well", "York"]
KINDS = ["Street", "Road", "Lane", "Square", "Row"]
PHRASES = ["reported again by a neighbour", "dangerous for cyclists", "third time this year", "since last weekend",
           "children play nearby", "photo attached", "please call before coming", "opposite the school",
           "only after rain", "gets worse every day", "blocks the pavement", "seen from the bus stop"]

SCHEMA = """
CREATE TABLE agencies (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE districts (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    opened_at TEXT NOT NULL,
    closed_at TEXT,
    agency_id INTEGER NOT NULL REFERENCES agencies(id),
    district_id INTEGER NOT NULL REFERENCES districts(id),
    category TEXT NOT NULL,
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    hours_open INTEGER,
    street TEXT NOT NULL,
    description TEXT NOT NULL
);
CREATE INDEX requests_agency ON requests(agency_id);
"""


def pick(rng, values):
    """One of `values`, the earlier ones more often. Built on random() alone, which no Python version changes."""
    return values[int(len(values) * rng.random() ** 1.7)]


def rows(first, count, start, rng):
    """`count` requests with ids from `first`, one every few minutes from `start`."""
    opened = start
    for number in range(first, first + count):
        opened += timedelta(seconds=30 + int(rng.random() * 720))
        agency = 1 + int(len(AGENCIES) * rng.random() ** 1.5)
        category = pick(rng, CATEGORIES[agency])
        open_hours = 1 + int(900 * rng.random() ** 3)
        closed = opened + timedelta(hours=open_hours) if rng.random() < 0.85 else None
        street = f"{pick(rng, STREETS)} {pick(rng, KINDS)} {1 + int(rng.random() * 180)}"
        yield (
            number,
            opened.isoformat(timespec="seconds"),
            closed.isoformat(timespec="seconds") if closed else None,
            agency,
            1 + int(len(DISTRICTS) * rng.random() ** 1.3),
            category,
            pick(rng, CHANNELS),
            "closed" if closed else ("open" if rng.random() < 0.7 else "scheduled"),
            1 + int(5 * rng.random()),
            open_hours if closed else None,
            street,
            f"{category} at {street}, {pick(rng, PHRASES)}, {pick(rng, PHRASES)}",
        )


def insert(db, values):
    db.executemany("INSERT INTO requests VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values)


def create(path, count):
    db = sqlite3.connect(path)
    db.executescript(SCHEMA)
    db.executemany("INSERT INTO agencies VALUES (?,?)", enumerate(AGENCIES, 1))
    db.executemany("INSERT INTO districts VALUES (?,?)", enumerate(DISTRICTS, 1))
    insert(db, rows(1, count, START, random.Random(SEED)))
    db.commit()
    db.close()


def add(path, count):
    db = sqlite3.connect(path, timeout=30)
    with db:
        last, opened = db.execute("SELECT id, opened_at FROM requests ORDER BY id DESC LIMIT 1").fetchone()
        insert(db, rows(last + 1, count, datetime.fromisoformat(opened), random.Random(SEED + last)))
    print(db.execute("SELECT count(*) FROM requests").fetchone()[0], "rows now")
    db.close()


def close(path, number):
    db = sqlite3.connect(path, timeout=30)
    with db:
        changed = db.execute("UPDATE requests SET status = 'closed', closed_at = '2031-01-01T00:00:00' WHERE id = ?",
                             (number,)).rowcount
    db.close()
    if not changed:
        sys.exit(f"no request {number}")


def main(args):
    if len(args) < 2 or args[0] not in ("create", "add", "close"):
        sys.exit(__doc__)
    verb, path = args[0], args[1]
    if verb == "create":
        create(path, int(args[2]) if len(args) > 2 else ROWS)
    elif verb == "add":
        add(path, int(args[2]) if len(args) > 2 else 1)
    else:
        close(path, int(args[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
