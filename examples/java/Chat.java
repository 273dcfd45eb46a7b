// Chat in a terminal with Microsoft's Java client, by the recipe of docs/hub.md ("With a stock client"). Java 11 or newer:
//   mvn dependency:copy-dependencies -DoutputDirectory=lib
//   java -cp 'lib/*' Chat.java http://localhost:5000 TOKEN CONVERSATION_ID
// It shows each message once and in order, whatever dies meanwhile, and sends each line that is typed once.
import com.google.gson.JsonObject;
import com.microsoft.signalr.HttpRequestException;
import com.microsoft.signalr.HubConnection;
import com.microsoft.signalr.HubConnectionBuilder;
import com.microsoft.signalr.HubConnectionState;
import com.microsoft.signalr.HubException;
import io.reactivex.rxjava3.core.Single;
import java.util.Map;
import java.util.Scanner;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

public final class Chat {
    static final Set<String> AGAIN = Set.of("unavailable", "overloaded", "rate_limited");

    static class Message { String id, conversationId, content; long seq, changedSeq; }
    static class Resync { String conversationId, messageId; long lastSeq; }
    static class Cursor {
        final long seq; final String messageId;
        Cursor(long seq, String messageId) { this.seq = seq; this.messageId = messageId; }
    }

    /** The last change of each conversation, and its message: keep it with what is shown. */
    final Map<String, Cursor> seen = new ConcurrentHashMap<>();
    final Semaphore lost = new Semaphore(0);
    final HubConnection hub;

    Chat(String url, String token) {
        hub = HubConnectionBuilder.create(url + "/hubs/chat?sync=manual")
            .withAccessTokenProvider(Single.fromCallable(() -> token)) // asked for each connection: give one that is good
            .build();
        // Only events move the cursor: the answer to a send may be ahead of what others wrote before it.
        hub.on("ReceiveMessage", this::show, Message.class);
        hub.on("MessageChanged", this::show, Message.class);
        hub.on("Resync", this::anew, Resync.class);
        hub.onClosed(error -> lost.release());
    }

    void show(Message message) {
        Cursor last = seen.get(message.conversationId);
        if (last != null && message.changedSeq <= last.seq) return;
        seen.put(message.conversationId, new Cursor(message.changedSeq, message.id));
        System.out.println(message.seq + " " + message.content);
    }

    void anew(Resync notice) { // too far behind: show that conversation from REST
        seen.put(notice.conversationId, new Cursor(notice.lastSeq, notice.messageId));
        System.out.println("read GET /api/messages?conversationId=" + notice.conversationId);
    }

    /** This client does not reconnect by itself: one connection after the other, each begun with Sync. */
    void keepConnected() {
        for (;;) {
            try {
                lost.drainPermits();
                hub.start().blockingAwait();
                // What was missed comes as events, then what happens: of 400 conversations, docs/hub.md has the rest.
                hub.invoke(JsonObject.class, "Sync", seen).blockingGet();
                lost.acquire();
                Thread.sleep(ThreadLocalRandom.current().nextInt(2000)); // not all clients at once
            } catch (InterruptedException over) {
                return;
            } catch (RuntimeException failed) { // no server, or an answer that is an error: from the beginning
                if (failed instanceof HttpRequestException && ((HttpRequestException) failed).getStatusCode() == 401) {
                    System.err.println("sign in again: " + failed.getMessage());
                    System.exit(1);
                }
                stop();
                if (!pause(1000)) return;
            }
        }
    }

    /** Until it is answered, on this connection or a later one. An answer that is an error begins with its code. */
    <T> T call(Class<T> kind, String method, Object... arguments) {
        for (;;) {
            try {
                return hub.invoke(kind, method, arguments).blockingGet();
            } catch (HubException answer) {
                if (!AGAIN.contains(answer.getMessage().split(":")[0])) throw answer;
            } catch (RuntimeException lost) {
                // it may have been done: the same again, with the same clientMessageId
            }
            if (!pause(500)) throw new IllegalStateException("interrupted");
        }
    }

    void stop() { // a connection that is not there yet cannot be stopped
        if (hub.getConnectionState() == HubConnectionState.CONNECTED) hub.stop().blockingAwait(10, TimeUnit.SECONDS);
    }

    static boolean pause(int ms) {
        try {
            Thread.sleep(ms);
            return true;
        } catch (InterruptedException over) {
            return false;
        }
    }

    public static void main(String[] given) {
        Chat chat = new Chat(given[0], given[1]);
        Thread keeper = new Thread(chat::keepConnected);
        keeper.start();
        for (Scanner input = new Scanner(System.in, "UTF-8"); input.hasNextLine(); ) {
            String id = UUID.randomUUID().toString(); // one id is one message
            Map<String, String> message = Map.of("conversationId", given[2], "content", input.nextLine(), "clientMessageId", id);
            try {
                chat.call(JsonObject.class, "SendMessage", message);
            } catch (HubException refused) {
                System.err.println(refused.getMessage().lines().findFirst().orElse(""));
            }
        }
        keeper.interrupt();
        chat.stop();
        System.exit(0); // its HTTP client keeps threads
    }
}
