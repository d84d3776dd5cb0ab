"""Rules of aggregation: a node's new weights from its own and its neighbours'; a file each."""
