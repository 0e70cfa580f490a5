"""Objects cut from recorded frames and pasted into others (GT-paste)."""
