"""The page people look at: runs, studies and policies as one self-contained HTML file."""
