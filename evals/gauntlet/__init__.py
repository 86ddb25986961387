"""The open gauntlet: replies of the kind that models write, labelled as a careful person reads them."""
