"""HTTP as every dialect speaks it: the contract, headers, errors, streams, the access log."""
