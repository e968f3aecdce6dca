"""What every dialect needs of HTTP: the contract, who calls, failures, event streams. No verb of the core."""
