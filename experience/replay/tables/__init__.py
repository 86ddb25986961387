"""Tables: what they hold, who is drawn from them, who waits for whom."""
