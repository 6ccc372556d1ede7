"""Model poisoning: forged updates of one attacker or of several who collude."""
