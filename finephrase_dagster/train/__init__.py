"""From datasets to students: tokenise once, mix by windows, train from scratch."""
