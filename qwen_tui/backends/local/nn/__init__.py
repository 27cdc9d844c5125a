"""Forward passes and their layers. Nothing here knows of files, plans or sampling."""
