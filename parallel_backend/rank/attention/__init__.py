"""Which attention kernel a rank uses: asked for, tried, measured."""
