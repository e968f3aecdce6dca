"""HTTP as every dialect uses it: the contract, headers, errors, streams, the access log."""
