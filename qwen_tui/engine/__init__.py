"""The engine's thread and its channel to the event loop; knows no backend and no interface.

Law: nothing here decides what is generated, only who waits for whom.
"""
