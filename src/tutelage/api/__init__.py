"""What `import tutelage` offers (docs/python.md). Its modules load torch when their functions are called; the one of
`Trainer` does at once."""
