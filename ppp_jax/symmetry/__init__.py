"""What commutes with what: groups, and the certificates of everything that has one."""
