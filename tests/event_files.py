"""TensorBoard's event files, read as TensorBoard reads them."""

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


def events(folder):
    """All events of a folder, the oldest file first."""
    found = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            size = int.from_bytes(content[:8], "little")
            event = content[12 : 12 + size]
            checksum = int.from_bytes(content[12 + size : 16 + size], "little")
            assert checksum == masked_crc32c(event)
            found.append(event_pb2.Event.FromString(event))
            content = content[16 + size :]
    return found


def curves(folder):
    """{tag: [(step, value)]}: where a process starts, what lies at its step or after is void."""
    found = {}
    for event in events(folder):
        if event.session_log.status == event.session_log.START:
            for tag, points in found.items():
                found[tag] = [point for point in points if point[0] < event.step]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
