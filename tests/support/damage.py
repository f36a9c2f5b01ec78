"""What can happen to a file behind the back of those who wrote it."""


def flip(path, place=0.5):
    """Change one byte, so far from the beginning."""
    data = bytearray(path.read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] ^= 1
    path.write_bytes(data)


def cut(path, place=0.5):
    """Keep so much of the beginning."""
    data = path.read_bytes()
    path.write_bytes(data[: int(place * len(data))])


def missing(path):
    path.unlink()


HARMS = {"flipped": flip, "cut": cut, "missing": missing}
