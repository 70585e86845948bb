"""From any source into any target: plan, compress, bring, store, tag."""
