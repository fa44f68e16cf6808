"""What a graph brought and changed, described so that a rank can do the same."""
