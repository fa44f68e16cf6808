"""The process group: started, watched, asked, given memory back by, replaced when lost."""
