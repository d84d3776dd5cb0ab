"""Which units a node keeps: by gates of its own, agreed ones, widths or windows; a file each."""
