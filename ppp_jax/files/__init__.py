"""Files that are whole or not at all, and are looked at before they are believed."""
