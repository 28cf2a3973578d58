"""Tables and transactions: a transaction is a plain function of a connection."""
