"""What is made of a run when it is over: its result file, the verdict, the page, the comparison. No sockets, no clock."""
