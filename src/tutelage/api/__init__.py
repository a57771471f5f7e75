"""What `import tutelage` offers (docs/python.md). Its modules load torch when their functions are called; the one of
`Trainer` does at once, so how threads wait is said here, before any of them."""

from tutelage.common.threads import wait_briefly

wait_briefly()
