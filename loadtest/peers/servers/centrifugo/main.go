// The backend of Centrifugo: it says who is in which channel when a client connects, and commits what a client
// publishes before Centrifugo answers and delivers it (its connect and publish proxies). It starts Centrifugo itself,
// so that both end together.
// Arguments: program of Centrifugo, port, directory of PostgreSQL's socket, database, directory of the SQL.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

const uniqueViolation = "23505"

type object = map[string]any

type message struct {
	ConversationID  int64  `json:"conversationId"`
	Content         string `json:"content"`
	ClientMessageID string `json:"clientMessageId"`
}

type stored struct {
	ID        string    `json:"id"`
	Seq       int64     `json:"seq"`
	SenderID  int64     `json:"senderId"`
	CreatedAt time.Time `json:"createdAt"`
	message
}

type backend struct {
	pool        *pgxpool.Pool
	send, again string
}

func newID() pgtype.UUID {
	id := pgtype.UUID{Valid: true}
	rand.Read(id.Bytes[:])
	id.Bytes[6] = id.Bytes[6]&0x0f | 0x40
	id.Bytes[8] = id.Bytes[8]&0x3f | 0x80
	return id
}

// commit returns nil for somebody who is no member.
func (b *backend) commit(ctx context.Context, user int64, m message) (*stored, error) {
	whole := stored{SenderID: user, message: m}
	rows, err := b.pool.Query(ctx, b.send, m.ConversationID, user, newID(), m.ClientMessageID, m.Content)
	found, err := scan(rows, err, &whole)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == uniqueViolation {
		rows, err = b.pool.Query(ctx, b.again, user, m.ClientMessageID)
		found, err = scan(rows, err, &whole)
	}
	if err != nil || !found {
		return nil, err
	}
	return &whole, nil
}

type result interface {
	Next() bool
	Scan(...any) error
	Err() error
	Close()
}

func scan(rows result, err error, whole *stored) (bool, error) {
	if err != nil {
		return false, err
	}
	defer rows.Close()
	if !rows.Next() {
		return false, rows.Err()
	}
	if err := rows.Scan(&whole.ID, &whole.Seq, &whole.CreatedAt); err != nil {
		return false, err
	}
	rows.Close()
	return true, rows.Err()
}

func (b *backend) publish(ctx context.Context, body []byte) (object, error) {
	var asked struct {
		User    string  `json:"user"`
		Channel string  `json:"channel"`
		Data    message `json:"data"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, err
	}
	user, err := strconv.ParseInt(asked.User, 10, 64)
	if err != nil {
		return nil, err
	}
	asked.Data.ConversationID, err = strconv.ParseInt(strings.TrimPrefix(asked.Channel, "chat:"), 10, 64)
	if err != nil {
		return nil, err
	}
	whole, err := b.commit(ctx, user, asked.Data)
	if err != nil {
		return nil, err
	}
	if whole == nil {
		return object{"error": object{"code": 403, "message": "forbidden"}}, nil
	}
	return object{"result": object{"data": whole}}, nil
}

func (b *backend) connect(ctx context.Context, body []byte) (object, error) {
	var asked struct {
		Data struct {
			User int64 `json:"user"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, err
	}
	rows, err := b.pool.Query(ctx, "select conversation_id from members where user_id = $1", asked.Data.User)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	channels := []string{}
	for rows.Next() {
		var conversation int64
		if err := rows.Scan(&conversation); err != nil {
			return nil, err
		}
		channels = append(channels, fmt.Sprintf("chat:%d", conversation))
	}
	user := strconv.FormatInt(asked.Data.User, 10)
	return object{"result": object{"user": user, "channels": channels}}, rows.Err()
}

func serve(answer func(context.Context, []byte) (object, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		err := json.NewDecoder(r.Body).Decode(&body)
		if err == nil {
			var said object
			if said, err = answer(r.Context(), body); err == nil {
				w.Header().Set("Content-Type", "application/json")
				json.NewEncoder(w).Encode(said)
				return
			}
		}
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// configured is what Centrifugo is started with. Pings would be counted as work, so they are put off.
func configured(port int, backend string) object {
	proxy := func(path string) object {
		return object{"endpoint": backend + path, "timeout": "10s", "enabled": true}
	}
	publish := proxy("/publish")
	delete(publish, "enabled")
	return object{
		"http_server": object{"address": "127.0.0.1", "port": port},
		"log":         object{"level": "error"},
		"usage_stats": object{"disabled": true},
		"client": object{
			"proxy":         object{"connect": proxy("/connect")},
			"ping_interval": "1h",
			"pong_timeout":  "59m",
		},
		"channel": object{
			"proxy":      object{"publish": publish},
			"namespaces": []object{{"name": "chat", "publish_proxy_enabled": true}},
		},
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func read(directory, name string) string {
	text, err := os.ReadFile(filepath.Join(directory, name))
	check(err)
	return string(text)
}

func main() {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts a process
	program, sockets, database, sql := os.Args[1], os.Args[3], os.Args[4], os.Args[5]
	port, err := strconv.Atoi(os.Args[2])
	check(err)
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	address := fmt.Sprintf("host=%s port=5432 user=postgres dbname=%s pool_max_conns=10", sockets, database)
	pool, err := pgxpool.New(stop, address)
	check(err)
	b := &backend{pool, read(sql, "send.sql"), read(sql, "again.sql")}
	http.HandleFunc("/connect", serve(b.connect))
	http.HandleFunc("/publish", serve(b.publish))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(listener, nil)

	config, err := json.Marshal(configured(port, "http://"+listener.Addr().String()))
	check(err)
	path := filepath.Join(filepath.Dir(sockets), fmt.Sprintf("centrifugo-%d.json", port)) // goes with PostgreSQL's data
	check(os.WriteFile(path, config, 0o600))
	centrifugo := exec.Command(program, "--config", path)
	centrifugo.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(centrifugo.Start())
	go func() {
		<-stop.Done()
		centrifugo.Process.Signal(syscall.SIGTERM)
	}()
	err = centrifugo.Wait()
	if stop.Err() == nil {
		log.Fatal("Centrifugo ended: ", err)
	}
}
