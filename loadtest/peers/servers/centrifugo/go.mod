module backend

go 1.26

tool github.com/centrifugal/centrifugo/v6

require (
	github.com/centrifugal/centrifugo/v6 v6.9.1
	github.com/jackc/pgx/v5 v5.10.0
)
