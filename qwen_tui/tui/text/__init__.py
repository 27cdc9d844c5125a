"""Text laid out in cells, and the words of the interface. Nothing here knows a widget."""
