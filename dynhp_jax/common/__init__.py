"""What every package needs: errors, paths, files, keys, checks of fields."""
