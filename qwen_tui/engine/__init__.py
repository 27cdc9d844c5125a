"""The engine's thread and its channel to the event loop; it knows neither backends nor interfaces.

Law: nothing here decides what is generated, only who waits for whom.
"""
