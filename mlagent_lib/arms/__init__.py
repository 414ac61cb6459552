"""Which units make the arms of the comparison, in which order, and how their tables come together."""
