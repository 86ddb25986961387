"""A user's own table, of any form, to rows of one kind. No torch."""

from data_cards.table.cards import read_card
from data_cards.table.read import read_table
from data_cards.table.rows import Box, Columns, Label, Message, Row, Split, Table, Target

__all__ = ["Box", "Columns", "Label", "Message", "Row", "Split", "Table", "Target", "read_card", "read_table"]
