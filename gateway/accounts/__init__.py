"""Who may use the gateway, and how much: keys, scopes, tiers and limits."""
