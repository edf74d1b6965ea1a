"""The judge of a canary: compares a new release with the stable one, and says whether it may have more traffic."""
