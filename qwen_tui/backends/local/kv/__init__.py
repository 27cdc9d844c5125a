"""Keys and values: the prefix cache in memory and its blocks on disk."""
