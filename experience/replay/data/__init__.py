"""The data of items: steps in arenas that items share."""
