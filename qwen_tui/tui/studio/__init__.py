"""The main screen: document, completion and sampling panes over a workspace."""
