"""What a person looks at: messages, pages, pictures."""
