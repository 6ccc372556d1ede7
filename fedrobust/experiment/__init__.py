"""From a configuration to objects: composition, checks, factories, compatibility, and the
experiment itself."""
