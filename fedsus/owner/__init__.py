"""What a data owner decides: the policy, the ledger of what was spent, and the admission of plans. Device only."""
